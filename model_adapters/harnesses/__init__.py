"""Adapters for the hosts that ask: one file is one host. No steering decision is taken here."""
