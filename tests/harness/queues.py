"""What lies in a queue, for tests that look at it."""

from acequia.ports import Ack, Bus, Delivery, Settlement


async def taken_from(bus: Bus, queue: str) -> list[Delivery]:
    """All that lies in the queue, acknowledged."""
    found: list[Delivery] = []

    async def take(delivery: Delivery) -> Settlement:
        found.append(delivery)
        return Ack()

    subscription = await bus.consume(queue, take, concurrency=10)
    while await bus.depth(queue):
        pass
    await subscription.close(grace=5)
    return found
