"""Everything that knows Ray: replicas, calls over handles, autoscaling, environment, patches."""
