"""``python -m warmfleet_cli``."""

from warmfleet_cli.main import main

raise SystemExit(main())
