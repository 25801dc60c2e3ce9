"""The command line: options to settings, errors to one line and an exit status."""
