"""Which attempts are quick, in seconds. The gateway and the workers measure separately, by the same figures.

A *quick* attempt takes less than `QUICK`. Only quick attempts may queue in a worker. Attempts that take less
than `INSTANT` on average are *instant*. They are not spread over workers and threads, because waking
another one takes longer than they do.
"""

QUICK = 0.0003
INSTANT = 0.000025  # on average
UNKNOWN = QUICK / 6  # the assumed duration before the first attempt
STALL = 0.005  # longer attempts count as this in a mean
LAST = 512  # attempts in a mean
