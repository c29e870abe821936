"""MMRec as a host: our models under its loader, trainer and evaluator. See `install`."""
