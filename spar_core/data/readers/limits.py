"""The limits under the name that readers know them by."""

from spar_core.data.limits import check_claim, check_inside

__all__ = ["check_claim", "check_inside"]
