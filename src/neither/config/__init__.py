"""The YAML file as one frozen, validated object."""
