"""The style of the pages: light and dark, wide and narrow."""

STYLE = """\
:root { --ink: #1b2430; --soft: #5b6775; --paper: #ffffff; --ground: #f3f5f8; --line: #dde3ea; --bar: #2f6fde;
  --pale: #9bbcf2; --warn: #c2570c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #98a4b3; --paper: #1a2028; --ground: #11151b; --line: #2c3540; --bar: #6ea0f5;
    --pale: #3d5f9c; --warn: #f0934a; }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere; }
header, main, footer { max-width: 1060px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; padding-bottom: 20px; }
h1 { font-size: 28px; line-height: 1.2; }
header p, footer { color: var(--soft); }
footer { padding-top: 12px; padding-bottom: 32px; font-size: 13px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin-bottom: 16px; }
h2 { font-size: 17px; margin-bottom: 12px; }
h3 { font-size: 13px; font-weight: 600; color: var(--soft); margin-bottom: 6px; }
code { font: 12px ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; color: var(--soft); }
p, code, span, li, dd { unicode-bidi: isolate; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tiles div { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  color: var(--soft); font-size: 13px; }
.tiles b { display: block; color: var(--ink); font-size: 22px; line-height: 1.3; }
.advice { padding-left: 22px; }
.advice li { padding: 3px 0 3px 4px; }
.advice li::marker { color: var(--warn); font-weight: 700; }
.cover { display: grid; grid-template-columns: 150px 1fr; gap: 4px 16px; padding: 6px 0; }
.cover b { font-weight: 600; }
.bar { display: grid; grid-template-columns: 1fr 210px; gap: 12px; align-items: center; font-size: 13px;
  color: var(--soft); }
.bar i { background: var(--ground); border-radius: 4px; height: 10px; overflow: hidden; }
.bar u { display: block; height: 100%; background: var(--bar); }
.bar.weighted u { background: var(--pale); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 14px; }
figure img, figure .none, .same > img, .same > .none { width: 100%; height: 150px; object-fit: contain;
  background: #ffffff; border: 1px solid var(--line); border-radius: 8px; display: block; }
.none { display: flex !important; align-items: center; justify-content: center; background: var(--ground) !important;
  color: var(--soft); font-size: 12px; }
figcaption { padding-top: 6px; font-size: 12px; line-height: 1.35; }
figcaption p { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }
figcaption small { display: block; color: var(--soft); font-size: 12px; }
.same { display: grid; grid-template-columns: 110px 1fr; gap: 16px; padding: 8px 0; align-items: start; }
.same > img, .same > .none { height: 110px; }
.same ul { padding-left: 18px; font-size: 13px; }
dl > div { display: grid; grid-template-columns: 190px 1fr; gap: 16px; padding: 6px 0;
  border-top: 1px solid var(--line); }
dl > div:first-child { border-top: 0; }
dt { color: var(--soft); }
.chips { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 8px; padding-top: 8px; }
.chips div { display: flex; gap: 8px; align-items: center; font-size: 12px; line-height: 1.35; }
.chips img { width: 44px; height: 44px; object-fit: contain; background: #ffffff; border: 1px solid var(--line);
  border-radius: 6px; flex: none; }
.chips span { display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
.hists { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px; }
.hist { display: flex; align-items: flex-end; gap: 2px; height: 90px; border-bottom: 1px solid var(--line); }
.hist i { flex: 1; background: var(--bar); border-radius: 2px 2px 0 0; }
.hist i.over { background: var(--warn); }
.hists p { display: flex; justify-content: space-between; font-size: 12px; color: var(--soft); padding-top: 4px; }
@media (max-width: 600px) {
  header, main, footer { padding-left: 12px; padding-right: 12px; }
  .cover, dl > div { grid-template-columns: 1fr; gap: 2px; }
  .bar { grid-template-columns: 1fr; gap: 2px; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  figure img, figure .none { height: 120px; }
}
"""
