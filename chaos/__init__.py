"""Breaks everything around the datastore and looks whether an event is missing."""
