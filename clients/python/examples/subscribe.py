"""Prints what comes under a filter, from now on, until ctrl-c: subscribe.py [FILTER [PORT]]"""

import asyncio
import sys

from eventstream import AsyncClient, Event


async def main(filter: str = "#", port: str = "8081") -> None:
    async with AsyncClient("127.0.0.1", int(port)) as client:
        async with await client.subscribe(filter) as subscription:
            async for item in subscription:
                if isinstance(item, Event):
                    print(item.topic, item.event_class.name, item.payload)
                else:
                    print("notice:", item)


try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    pass
