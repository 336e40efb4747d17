"""What several sinks share: threads that write, bundles, outages, refusals, the account by sink."""
