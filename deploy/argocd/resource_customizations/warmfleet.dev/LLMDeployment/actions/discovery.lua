-- Pausing and resuming by annotation, as `kubectl warmfleet pause` and `resume` do.
local paused = false
if obj.metadata.annotations ~= nil then
  paused = obj.metadata.annotations["warmfleet.dev/paused"] ~= nil
end
return {
  ["pause"] = { ["disabled"] = paused },
  ["resume"] = { ["disabled"] = not paused },
}
