-- Health of a warmfleet resource from its kstatus conditions (Ready, Reconciling, Stalled) and observedGeneration.
-- The order is kstatus's own. Paused is shown as Suspended, but never hides that something is wrong.
local health = { status = "Progressing", message = "Waiting for the operator" }

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "Being deleted; workers are drained first"
  return health
end
if obj.status == nil or obj.status.observedGeneration == nil or obj.status.observedGeneration == -1 then
  return health
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the operator to see the last change"
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local function say(status, kind)
  local condition = conditions[kind]
  local message = condition.message
  if message == nil or message == "" then
    message = condition.reason
  end
  return { status = status, message = message }
end

if holds("Reconciling") then
  return say("Progressing", "Reconciling")
end
if holds("Stalled") then
  return say("Degraded", "Stalled")
end
if conditions["Ready"] == nil then
  -- As in kstatus: whoever looked at it had nothing to say. So an external forecaster needs no conditions.
  return { status = "Healthy", message = "Seen" }
end
if not holds("Ready") then
  return say("Progressing", "Ready")
end
if holds("Paused") then
  return say("Suspended", "Paused")
end
return say("Healthy", "Ready")
