if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["warmfleet.dev/paused"] = "true"
return obj
