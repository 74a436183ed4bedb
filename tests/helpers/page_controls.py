"The controls of a view: read from its page, and moved there as a hand would move them."

# Sets a control, which is named by `data-control`, and says so as a browser does.
MOVE = """([name, value]) => {
  const input = document.querySelector(`[data-control=${name}]`)
  if (input.type === 'checkbox') input.checked = value
  else input.value = value
  for (const type of ['input', 'change']) input.dispatchEvent(new Event(type, { bubbles: true }))
}"""

# What the page says of each control, by name.
CONTROLS = """() => Object.fromEntries([...document.querySelectorAll('.mpo-row label')].map((label) => {
  const input = label.querySelector('[data-control]')
  const options = [...(input.options || [])].map((option) => [option.textContent, option.value])
  const text = label.querySelector('span').textContent
  return [input.dataset.control, { text, options, low: input.min, high: input.max, hidden: label.hidden }]
}))"""
