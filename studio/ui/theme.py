"""How the page looks: one theme for light and dark from fonts that are there, and a little CSS for phones."""

from __future__ import annotations

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "Liberation Mono", "monospace")

CSS = """
.gradio-container { max-width: none !important; padding: 0 !important; }
.gradio-container > :is(main, .main), main.app { box-sizing: border-box; width: 100% !important;
  max-width: 1280px !important; margin: 0 auto !important; padding: 16px clamp(8px, 3vw, 32px) 40px !important; }
#page-head { align-items: center; gap: 12px; flex-wrap: nowrap; }
#page-head h1 { font-size: 1.25rem; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
#page-head p { margin: 2px 0 0; color: var(--body-text-color-subdued); font-size: .875rem; }
#page-head > * { min-width: 0 !important; }
#page-theme { flex: 0 0 auto; }
#page-sign-in { flex: 0 0 auto; }
.page-note { border-left: 3px solid var(--primary-500); padding: 6px 12px; margin: 4px 0 0;
  background: var(--background-fill-secondary); border-radius: 4px; font-size: .875rem; }
:is(button, a, input, textarea, select, [role=tab], summary):focus-visible {
  outline: 2px solid var(--primary-500) !important; outline-offset: 2px; }
.gradio-container table { font-variant-numeric: tabular-nums; }
.gradio-container .table-wrap, .gradio-container .scroll { overflow-x: auto; }
:root:has(body.dark) { color-scheme: dark; }  /* scrollbars, and what the browser draws itself */
:root:has(body:not(.dark)) { color-scheme: light; }
@media (max-width: 640px) {
  #tabs > .tab-wrapper button, #tabs [role=tablist] button { padding-inline: 8px; }
  #page-head p { display: none; }
  button:not(.icon-button, .label-wrap) { min-height: 40px; }  /* gradio sets its own class before selectors in here */
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""

FIRST = "train"  # the tab of an address without one
KEPT = "studio-theme"  # in the browser: light or dark
RESTORE = f"""() => {{
  const asked = new URL(location).searchParams;
  const kept = localStorage.getItem('{KEPT}');
  if (kept && !asked.has('__theme')) document.body.classList.toggle('dark', kept === 'dark');
  const open = (tries) => {{
    const button = document.getElementById(`tab-${{asked.get('tab')}}-button`);
    if (!button && asked.get('tab') && tries) return setTimeout(open, 100, tries - 1);
    button?.click();
    window.studioOpened = true;
  }};
  open(50);
  window.addEventListener('popstate', () => {{  // back and forth between tabs
    const name = new URL(location).searchParams.get('tab') ?? '{FIRST}';
    document.getElementById(`tab-${{name}}-button`)?.click();
  }});
}}"""
TURN = f"""() => {{
  const dark = document.body.classList.toggle('dark');
  localStorage.setItem('{KEPT}', dark ? 'dark' : 'light');
}}"""


def theme() -> gr.themes.Base:
    """The theme of the page; nothing of it is loaded from elsewhere."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_label_text_weight="500",
        block_title_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_400",  # an empty one is seen, too
    )
