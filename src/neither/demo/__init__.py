"""The demo images: dogs, humans and neither, drawn by the project itself."""
