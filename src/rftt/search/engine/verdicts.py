"""Kept until helpers are done."""

from rftt.search.verdicts import check_verdicts as check_verdicts
