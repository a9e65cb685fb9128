"""The demo pictures: dogs, humans and neither, drawn by the project itself."""
