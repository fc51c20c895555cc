"""One client's connection over HTTP/1.1 on asyncio and uvloop: uvicorn's protocols, and what rrmaster mends in them."""
