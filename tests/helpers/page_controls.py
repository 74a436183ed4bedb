"Controls of a view, moved in the page as a hand would move them."

# Sets a control, which is named by `data-control`, and says so as a browser does.
MOVE = """([name, value]) => {
  const input = document.querySelector(`[data-control=${name}]`)
  if (input.type === 'checkbox') input.checked = value
  else input.value = value
  for (const type of ['input', 'change']) input.dispatchEvent(new Event(type, { bubbles: true }))
}"""
