"""The work on a job: claim it, drive it through the stages, commit, deliver webhooks, sweep."""
