/* Draws the charts of a page from the JSON that the server put into it. Without it the tables say the same. */
"use strict";

(() => {
  const source = document.getElementById("chart-data");
  if (!source || typeof Chart === "undefined") return;
  const specs = JSON.parse(source.textContent);
  const drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  /* A canvas does not know light-dark(): let the browser resolve it on an element. */
  const resolved = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const figure = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 2 });

  function options(spec) {
    const ink = resolved("--ink-2");
    const line = resolved("--line");
    const value = { beginAtZero: true, max: spec.top === null ? undefined : spec.top, stacked: spec.stacked, grid: { color: line }, border: { display: false },
      ticks: { color: ink, precision: spec.unit === "requests" ? 0 : undefined }, title: { display: true, text: spec.unit, color: ink } };
    const label = { stacked: spec.stacked, grid: { display: false }, border: { color: line },
      ticks: { color: resolved("--ink"), autoSkip: !spec.horizontal, maxRotation: 0,
        callback(value) { /* narrow screens: the table below has the whole name */
          const name = this.getLabelForValue(value);
          return this.chart.width < 480 && name.length > 16 ? `${name.slice(0, 15)}…` : name;
        } } };
    return {
      indexAxis: spec.horizontal ? "y" : "x",
      responsive: true,
      maintainAspectRatio: false,
      animation: false,
      font: { family: getComputedStyle(document.body).fontFamily },
      scales: spec.horizontal ? { x: value, y: label } : { x: label, y: value },
      plugins: {
        legend: { display: spec.series.length > 1, position: "bottom", align: "start",
          labels: { color: resolved("--ink"), boxWidth: 10, boxHeight: 10, padding: 16 } },
        tooltip: { callbacks: { label: (item) =>
          `${item.dataset.label}: ${figure(item.parsed[spec.horizontal ? "x" : "y"])} ${spec.unit}` } },
      },
    };
  }

  function draw() {
    while (drawn.length) drawn.pop().destroy();
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    for (const [id, spec] of Object.entries(specs)) {
      const canvas = document.getElementById(id);
      if (!canvas) continue;
      if (spec.horizontal) {
        const lanes = spec.labels.length * (spec.stacked ? 1 : spec.series.length);
        canvas.parentElement.style.height = `${Math.max(130, lanes * (spec.stacked ? 30 : 17) + 90)}px`;
      }
      drawn.push(new Chart(canvas, {
        type: "bar",
        data: {
          labels: spec.labels,
          datasets: spec.series.map((series, nth) => ({
            label: series.name, data: series.values, backgroundColor: colour(`--chart-${(nth % 4) + 1}`),
            borderRadius: 3, maxBarThickness: 22,
          })),
        },
        options: options(spec),
      }));
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
