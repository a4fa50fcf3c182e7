-- Gives each formula its TeX source as the alternative text that a screen reader speaks.
function Math(formula)
  local typst = pandoc.write(pandoc.Pandoc({ pandoc.Plain({ formula }) }), "typst"):gsub("%s+$", "")
  local alt = formula.text:gsub("\\", "\\\\"):gsub('"', '\\"'):gsub("%s+", " ")
  return pandoc.RawInline("typst", '#{ set math.equation(alt: "' .. alt .. '"); ' .. typst .. " }")
end
