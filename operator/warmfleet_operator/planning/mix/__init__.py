"""The cheapest mix of workers, over all fleets and types at once; each module opens with its formula.

::

    cover    one fleet: the cheapest whole numbers of workers that carry a need         (branch and bound)
    shadow   all fleets: what one more accelerator of a scarce type would be worth      (dual ascent)
    growth   one fleet: what it may buy, and in which order
    share    all fleets: who gets what is scarce, and who gives way                     (PriorityClass)
    swap     one fleet: whether a cheaper mix is worth the change                       (make before break)
"""

from warmfleet_operator.planning.mix.growth import Growth, Short
from warmfleet_operator.planning.mix.share import share_out
from warmfleet_operator.planning.mix.stock import Stock

__all__ = ["Growth", "Short", "Stock", "share_out"]
