"""What fitting processes share: imported once, by the server that they are forked from."""

from warmfleet_forecasting.models import prophet
from warmfleet_forecasting.service import work

__all__ = ["work"]

prophet.load()
