"""CPU-bound: worker processes use all CPUs, and the gateway stays responsive.

Publish: busway publish primes.count --data '{"below": 5000000}'
"""

from busway import Event, Fail, handler


@handler("primes.count", pool="process", timeout=120)
def count_primes(event: Event) -> dict[str, int]:
    """Count the primes below a number with a sieve."""
    below = event.data["below"]
    if not 2 <= below <= 100_000_000:
        raise Fail(f"'below' must be a number from 2 to 100,000,000, not {below}")
    sieve = bytearray([0, 0]) + bytearray([1]) * (below - 2)
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return {"below": below, "primes": sum(sieve)}
