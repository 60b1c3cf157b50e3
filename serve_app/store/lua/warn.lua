-- ARGV: id, token, warning (JSON). Adds a warning to a running job. Returns 1, or 0 if the lease is lost.
if not holds(ARGV[1], ARGV[2]) then return 0 end
add_warning(ARGV[1], ARGV[3])
return 1
