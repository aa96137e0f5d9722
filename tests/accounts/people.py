"""People with posts, for the tests of pages and selectors."""

from __future__ import annotations

from accounts import principals
from accounts.models import CareRelation, Department, Hospital, Membership, Role, User
from accounts.principals import Principal

PASSWORD = "correct horse battery staple"


def hospital(code: str = "northfield", name: str = "Northfield General", time_zone: str = "UTC") -> Hospital:
    return Hospital.objects.get_or_create(code=code, defaults={"name": name, "time_zone": time_zone})[0]


def department(code: str = "cardiology", at: Hospital | None = None) -> Department:
    home = at or hospital()
    return Department.objects.get_or_create(hospital=home, code=code, defaults={"name": code.capitalize()})[0]


def person(
    username: str,
    role: Role | None = Role.ATTENDING,
    *,
    works_in: Department | None = None,
    at: Hospital | None = None,
    network: bool = False,
) -> User:
    """A person with a post: clinical roles in a department, others at a hospital or, with ``network``, at none."""
    user = User.objects.create_user(username=username, password=PASSWORD)
    if role is None:
        return user
    clinical = role in (Role.ATTENDING, Role.RESIDENT, Role.NURSE, Role.PHARMACIST, Role.RESEARCHER)
    place = (works_in or department()) if clinical else None
    home = None if network else (place.hospital if place else at or hospital())
    Membership.objects.create(user=user, role=role, hospital=home, department=place)
    return user


def principal(user: User) -> Principal:
    return principals.for_user(user.pk)


def in_care(reference: str, label: str = "Female, born 1950s", *, of: Department | None = None) -> CareRelation:
    return CareRelation.objects.create(department=of or department(), patient_reference=reference, label=label)
