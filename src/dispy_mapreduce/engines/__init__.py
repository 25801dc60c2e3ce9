"""What tasks can be run on; see `run.Engine`."""
