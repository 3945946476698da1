-- Makes wrk send POST requests whose body has as many bytes as the first argument says.
function init(args)
  wrk.method = "POST"
  wrk.body = string.rep("x", tonumber(args[1]))
end
