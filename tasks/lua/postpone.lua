-- Have a queued job's next message sent at a later time; one on its way finds it all the same.
-- ARGV: id, time from which on.
local id = ARGV[1]
if get(id, 'status') ~= 'queued' then
  return 0
end
postpone(id, tonumber(ARGV[2]))
return 1
