// Draws the charts that stand as data in the page, in the colours of the light or dark theme.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const shown = {};

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(trace) {
    const change = { visible: !hidden.has(trace.legendgroup) };
    const meta = trace.meta || {};
    if (dark.matches && meta.dark) change.line = { ...trace.line, color: meta.dark };
    if (meta.edge) {
      change.marker = { ...trace.marker, line: { color: colour("--ink"), width: 1.5 } };
    }
    return { ...trace, ...change };
  }

  function draw(name) {
    const { data, layout } = charts[name][shown[name] || 0];
    const grid = { gridcolor: colour("--grid"), linecolor: colour("--grid"), automargin: true };
    const narrow = innerWidth <= 600;
    Plotly.react(
      name,
      data.map(themed),
      {
        ...layout,
        margin: narrow ? { ...layout.margin, l: 48, r: 6, t: 10 } : layout.margin,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
        font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
        xaxis: { ...layout.xaxis, ...grid },
        yaxis: { ...layout.yaxis, ...grid },
      },
      {
        responsive: true,
        displaylogo: false,
        displayModeBar: narrow ? false : "hover",
        modeBarButtons: [["toImage", "resetScale2d"]],
        showSendToCloud: false,
      },
    );
  }

  const drawAll = () => Object.keys(charts).forEach(draw);

  document.querySelectorAll("select[data-chart]").forEach((menu) => {
    // A browser keeps the choice when the page is loaded again.
    shown[menu.dataset.chart] = menu.selectedIndex;
    menu.addEventListener("change", () => {
      shown[menu.dataset.chart] = menu.selectedIndex;
      draw(menu.dataset.chart);
    });
  });
  document.querySelectorAll("button[data-cell]").forEach((button) => {
    button.addEventListener("click", () => {
      const cell = button.dataset.cell;
      if (!hidden.delete(cell)) hidden.add(cell);
      button.setAttribute("aria-pressed", String(!hidden.has(cell)));
      drawAll();
    });
  });
  dark.addEventListener("change", drawAll);
  drawAll();
})();
