"""The commands of `datastore`, a module each."""
