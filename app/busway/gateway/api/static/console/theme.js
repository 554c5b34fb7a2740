"use strict";

// A classic script in the head: a module would run after the first paint, which would flash in the other theme.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("busway.theme");
  } catch {
    // Without storage the theme is that of the system.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
