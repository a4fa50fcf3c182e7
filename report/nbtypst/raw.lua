-- HTML in a Markdown cell is shown as it is written, so that no word between < and > gets lost; a comment is left out.
local function shown(raw)
  if raw.format ~= "html" then return raw end
  if raw.text:match("^%s*<!%-%-") then return {} end
  if raw.text:match("^<br ?/?>$") then return pandoc.LineBreak() end
  return pandoc.Str((raw.text:gsub("%s+$", "")))
end

function RawInline(raw) return shown(raw) end

function RawBlock(raw)
  local text = shown(raw)
  return text.t == "Str" and pandoc.Para { text } or text
end
