"""The Lua scripts that change several keys of Redis in one step."""
