"""``/portal/registry.json``: claim sheets for the OpenDP Deployments Registry."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_safe

from accounts.principals import Principal
from compliance import registry
from compliance.views import portal_page


@require_safe
@portal_page
def registry_json(request: HttpRequest, principal: Principal) -> HttpResponseBase:
    """The entries as one file; the export is evidence itself."""
    response = JsonResponse(registry.export(principal), json_dumps_params={"indent": 2, "ensure_ascii": False})
    response["Content-Disposition"] = 'attachment; filename="registry.json"'
    response["Cache-Control"] = "no-store"
    return response
