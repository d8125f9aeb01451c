"""Contracts that every policy and every semi-supervised method keeps, for those of one's own too.

A check raises AssertionError where a promise is broken. All of them together, or one a test:

    @pytest.mark.parametrize("check", core.testing.POLICY_CHECKS)
    def test_my_policy(check):
        check(MyPolicy)
"""

from core.testing.policy_contract import POLICY_CHECKS, check_policy
from core.testing.semi_supervised_contract import METHOD_CHECKS, check_method
from core.testing.small_network import toy_problem

__all__ = ["METHOD_CHECKS", "POLICY_CHECKS", "check_method", "check_policy", "toy_problem"]
