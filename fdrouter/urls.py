"""Every address of the site. ``/v1`` is answered before this, by the lean handler of ``fdrouter.asgi``."""

from __future__ import annotations

from django.conf import settings
from django.urls import URLPattern, URLResolver, include, path

from fdrouter import health

urlpatterns: list[URLPattern | URLResolver] = [
    path("health", health.live, name="health"),
    path("ready", health.ready, name="ready"),
]
if settings.IS_COORDINATOR:
    from fdrouter.site_urls import site

    urlpatterns += site
if settings.IS_NODE:
    urlpatterns += [path("node/", include("federation.node.urls"))]
