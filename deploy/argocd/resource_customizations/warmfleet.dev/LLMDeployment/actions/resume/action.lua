if obj.metadata.annotations ~= nil then
  obj.metadata.annotations["warmfleet.dev/paused"] = nil
end
return obj
