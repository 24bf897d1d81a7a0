"""One program over all components: ``warmfleet X`` and, as a plugin, ``kubectl warmfleet X``."""
