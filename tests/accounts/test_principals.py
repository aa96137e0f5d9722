"""Who acts: the person's post as it is now, and its version, which moves with every change."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import principals
from accounts.models import ApiToken, Membership, Role
from fdrouter.errors import Unauthenticated
from tests.accounts import people

pytestmark = pytest.mark.django_db


def test_a_clinicians_post() -> None:
    cardiology = people.department("cardiology")
    user = people.person("ada", Role.RESIDENT, works_in=cardiology)
    found = principals.for_user(user.pk)
    assert (found.user_id, found.username, found.display_name) == (user.pk, "ada", "ada")
    assert (found.role, found.hospital, found.department, found.department_id) == (
        "resident",
        "northfield",
        "cardiology",
        cardiology.pk,
    )
    assert found.is_clinical and not found.sees_portal


def test_a_post_of_the_whole_network() -> None:
    found = people.principal(people.person("paula", Role.PRIVACY_OFFICER, network=True))
    assert (found.hospital, found.department, found.department_id) == (None, None, None)
    assert found.sees_portal and not found.is_clinical


@pytest.mark.parametrize("role", list(Role))
def test_who_sees_the_portal_and_who_is_clinical(role: Role) -> None:
    found = people.principal(people.person("p", role))
    assert found.sees_portal == (role in ("privacy_officer", "auditor"))
    assert found.is_clinical == (role in ("attending", "resident", "nurse", "pharmacist", "researcher"))


def test_nobody_without_a_post_or_an_account() -> None:
    user = people.person("ada", role=None)
    for user_id in (user.pk, 0, -1, 10**9):
        with pytest.raises(Unauthenticated):
            principals.for_user(user_id)


@pytest.mark.parametrize("field", ["account", "post"])
def test_a_closed_account_or_post_is_nobody(field: str) -> None:
    user = people.person("ada")
    if field == "account":
        user.is_active = False
        user.save()
    else:
        Membership.objects.filter(user=user).update(active=False)
    with pytest.raises(Unauthenticated):
        principals.for_user(user.pk)


def test_one_person_has_one_post() -> None:
    user = people.person("ada")
    with pytest.raises(IntegrityError, match="one_active_membership"), transaction.atomic():
        Membership.objects.create(user=user, role=Role.AUDITOR)


def test_a_clinical_post_has_a_department() -> None:
    user = people.person("ada", role=None)
    with pytest.raises(IntegrityError, match="clinical_role_has_department"), transaction.atomic():
        Membership.objects.create(user=user, role=Role.NURSE, hospital=people.hospital())


def version(user_id: int) -> int:
    return principals.for_user(user_id).version


@pytest.mark.parametrize("change", ["role", "department", "hospital"])
def test_every_change_of_a_post_moves_its_version(change: str) -> None:
    user = people.person("ada")
    before = version(user.pk)
    elsewhere = people.department("oncology", people.hospital("lakeside", "Lakeside"))
    value = {"role": Role.NURSE, "department": elsewhere, "hospital": elsewhere.hospital}[change]
    Membership.objects.filter(user=user).update(**{change: value})
    assert version(user.pk) == before + 1


def test_also_by_saving_and_also_by_an_outdated_copy() -> None:
    user = people.person("ada")
    first, second = Membership.objects.get(user=user), Membership.objects.get(user=user)
    before = version(user.pk)
    first.role = Role.NURSE
    first.save()
    second.role = Role.PHARMACIST
    second.save()
    assert version(user.pk) == before + 2


def test_saving_without_a_change_moves_nothing() -> None:
    user = people.person("ada")
    before = version(user.pk)
    Membership.objects.get(user=user).save()
    assert version(user.pk) == before


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_is_its_owner() -> None:
    user = people.person("ada")
    token = principals.issue_token(Membership.objects.get(user=user), "laptop")
    assert principals.for_token(principals.token_digest(token)) == principals.for_user(user.pk)


def test_tokens_are_long_random_and_stored_as_digests_only() -> None:
    membership = Membership.objects.get(user=people.person("ada"))
    tokens = {principals.issue_token(membership, "laptop") for _ in range(20)}
    assert len(tokens) == 20 and min(map(len, tokens)) >= 4 + 43
    stored = ApiToken.objects.values_list("digest", "prefix", "name")
    for digest, prefix, name in stored:
        assert len(bytes(digest)) == 32
        assert len(prefix) == 10
        assert not any(token in (prefix, name) for token in tokens)


@pytest.mark.parametrize("digest", [b"", bytes(32), principals.token_digest("fdr_guess"), principals.token_digest("")])
def test_unknown_tokens(digest: bytes) -> None:
    principals.issue_token(Membership.objects.get(user=people.person("ada")), "laptop")
    with pytest.raises(Unauthenticated):
        principals.for_token(digest)


def test_the_digest_in_the_table_is_not_a_token() -> None:
    token = principals.issue_token(Membership.objects.get(user=people.person("ada")), "laptop")
    with pytest.raises(Unauthenticated):
        principals.for_token(principals.token_digest(principals.token_digest(token).hex()))


@pytest.mark.parametrize("end", ["revoked", "expired", "post ended", "account closed"])
def test_a_token_ends(end: str) -> None:
    user = people.person("ada")
    membership = Membership.objects.get(user=user)
    digest = principals.token_digest(principals.issue_token(membership, "laptop"))
    now = timezone.now()
    if end == "revoked":
        ApiToken.objects.update(revoked_at=now)
    elif end == "expired":
        ApiToken.objects.update(expires_at=now - timedelta(seconds=1))
    elif end == "post ended":
        Membership.objects.update(active=False)
    else:
        user.is_active = False
        user.save()
    with pytest.raises(Unauthenticated):
        principals.for_token(digest)


def test_a_token_that_ends_later_is_good_until_then() -> None:
    membership = Membership.objects.get(user=people.person("ada"))
    digest = principals.token_digest(principals.issue_token(membership, "laptop"))
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(minutes=1))
    assert principals.for_token(digest).username == "ada"


def test_a_token_belongs_to_a_post_and_not_to_the_next_one() -> None:
    user = people.person("ada")
    old = Membership.objects.get(user=user)
    digest = principals.token_digest(principals.issue_token(old, "laptop"))
    Membership.objects.filter(pk=old.pk).update(active=False)
    Membership.objects.create(user=user, role=Role.AUDITOR)
    with pytest.raises(Unauthenticated):
        principals.for_token(digest)
