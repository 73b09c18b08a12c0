"""The live page: an ASGI application over what ``SiteView`` shows, its server, and the page itself (``page/``)."""
