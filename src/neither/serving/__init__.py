"""A web page and a JSON API over a classifier."""
