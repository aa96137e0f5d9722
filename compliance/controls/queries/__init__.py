"""The evidence queries. Importing this package registers all of them."""

import compliance.controls.queries.answers
import compliance.controls.queries.ledger
import compliance.controls.queries.log
import compliance.controls.queries.nodes
import compliance.controls.queries.people
import compliance.controls.queries.product  # noqa: F401  (imported for their registration)
