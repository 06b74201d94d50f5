"""What the server does against what it says of itself (/openapi.json), by Schemathesis."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks

import vitkit
from vitkit.serve.app import make_app

load_all_checks()
# No schema can say that bytes are an image, or a text the name of a class.
CANNOT_BE_SAID = CHECKS.get_by_names(["positive_data_acceptance"])
ROUTES = 21


def test_nothing_is_undocumented(finished: vitkit.Run) -> None:
    app = make_app(finished.load(), name="colours")
    routes = [
        one.ok()
        for one in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()
    ]
    assert len(routes) == ROUTES
    for route in routes:

        @settings(max_examples=15, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=route.as_strategy())
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=CANNOT_BE_SAID)

        holds()
