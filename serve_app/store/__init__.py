"""State in Redis: jobs, leases, event streams, webhooks, keys, and the Lua scripts behind them."""
