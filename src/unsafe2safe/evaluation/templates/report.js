"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector) => document.querySelector(selector);
  const all = (selector, within) => [...(within || document).querySelectorAll(selector)];
  const report = JSON.parse(one("#report-data").textContent);

  // -- theme ---------------------------------------------------------------------------------
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = one("#theme");
  let printing = false;
  const isDark = () => !printing && (root.style.colorScheme ? root.style.colorScheme === "dark" : systemDark.matches);
  const themeChanged = () => {
    themeButton.setAttribute("aria-pressed", String(isDark()));
    redraw();
  };
  themeButton.addEventListener("click", () => {
    root.style.colorScheme = isDark() ? "light" : "dark";
    try { localStorage.setItem("unsafe2safe-theme", root.style.colorScheme); } catch (refused) { /* kept for this view only */ }
    themeChanged();
  });
  systemDark.addEventListener("change", themeChanged);

  // -- drawings --------------------------------------------------------------------------------
  // A figure is made in the light palette; on a dark page each of its colours is exchanged.
  const themed = (value) => {
    if (typeof value === "string") return isDark() && report.dark[value] || value;
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
    return value;
  };
  const settings = { displayModeBar: false, responsive: true };
  const draw = (place, figure) => {
    const { data, layout } = themed(figure);
    return Plotly.react(place, data, layout, settings);
  };
  const tone = report.tone;
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

  const spreadFigure = (item, form) => {
    const traces = [];
    let dashed = 0;
    report.rows.forEach((row, index) => {
      const values = item.rows[index];
      if (!values || !values.length) return;
      const shared = { name: row.title, showlegend: false };
      if (form === "ecdf") {
        traces.push({ ...shared, type: "scatter", mode: "lines", x: [values[0], ...values], y: [0, ...values].map((_, at) => at / values.length),
          line: { color: row.colour, width: 2, shape: "hv", dash: row.kind === "reference" ? dashes[1 + dashed++ % 5] : "solid" },
          hovertemplate: "%{fullData.name}<br>%{y:.0%} of images at or below %{x:.3f}<extra></extra>" });
      } else {
        const drawn = { ...shared, y: values, x: values.map(() => String(index + 1)), line: { color: row.colour, width: 1.5 }, fillcolor: tone.raised };
        traces.push(form === "box"
          ? { ...drawn, type: "box", boxpoints: "outliers", marker: { color: row.colour, size: 4 } }
          : { ...drawn, type: "violin", points: values.length <= 40 ? "all" : false, jitter: 0.3, pointpos: 0, spanmode: "hard", scalemode: "width", width: 0.8,
              marker: { color: row.colour, size: 4 }, box: { visible: true, width: 0.08, fillcolor: tone.card }, meanline: { visible: true } });
      }
    });
    const axis = { gridcolor: tone.line, zeroline: false, tickfont: { color: tone.soft, size: 12 }, fixedrange: true, ticks: "" };
    const title = (text) => ({ text, font: { color: tone.soft, size: 13 } });
    const ecdf = form === "ecdf";
    return { data: traces, layout: {
      xaxis: ecdf ? { ...axis, title: title(item.title) } : { ...axis, type: "category", title: title("Row") },
      yaxis: ecdf ? { ...axis, title: title("Share of images at or below"), tickformat: ".0%", range: [0, 1.02] } : { ...axis, title: title(item.title) },
      font: { family: getComputedStyle(document.body).fontFamily, color: tone.ink },
      hoverlabel: { bgcolor: tone.raised, bordercolor: tone.edge, font: { color: tone.ink, size: 13 } },
      paper_bgcolor: tone.card, plot_bgcolor: tone.card, height: 420, margin: { l: 62, r: 12, t: 12, b: 50 },
      hovermode: "closest", dragmode: false, violingap: 0.2, boxgap: 0.5,
    } };
  };

  const chosenPlane = () => one("#plane-choice")?.value;
  const drawPlane = () => {
    const key = chosenPlane();
    if (!key) return;
    all("[data-plane]").forEach((place) => { place.hidden = place.dataset.plane !== key; });
    all("[data-plane-told]").forEach((place) => { place.hidden = place.dataset.planeTold !== key; });
    if (!globalThis.Plotly) return;
    const { data, layout, close } = report.planes[key];
    const near = (axis, range) => ({ ...axis, range, tickvals: null, nticks: 6 });
    const shown = one("#close-up").checked && close
      ? { ...layout, xaxis: near(layout.xaxis, close.x), yaxis: near(layout.yaxis, close.y) } : layout;
    draw(one(`[data-plane="${CSS.escape(key)}"]`), { data, layout: shown });
  };
  const drawSpread = () => {
    const metric = one("#spread-metric")?.value;
    if (!metric || !globalThis.Plotly) return;
    const item = report.spread[metric];
    const form = one("[name=spread-form]:checked").value;
    one("#spread-plot").setAttribute("aria-label", spoken(item));
    draw(one("#spread-plot"), spreadFigure(item, form));
  };
  // What a drawing shows, for who does not see it.
  const spoken = (item) => `Distribution over images of ${item.title}. ` + report.rows.map((row, index) => {
    const values = item.rows[index] || [];
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))].toFixed(3);
    return values.length ? `${row.title}: median ${at(0.5)}, middle half ${at(0.25)} to ${at(0.75)}` : `${row.title}: none`;
  }).join("; ");
  function redraw() { drawPlane(); drawSpread(); }

  one("#plane-choice")?.addEventListener("change", drawPlane);
  one("#close-up")?.addEventListener("change", drawPlane);
  one("#spread-metric")?.addEventListener("change", drawSpread);
  all("[name=spread-form]").forEach((radio) => radio.addEventListener("change", drawSpread));

  const unpack = async () => {
    const packed = one("#plotly");
    if (!packed) return;
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    redraw();
    root.dataset.drawn = "true";
  };

  // -- tabs --------------------------------------------------------------------------------------
  all("[role=tablist]").forEach((list) => {
    const tabs = all("[role=tab]", list);
    const choose = (tab, focus) => {
      tabs.forEach((other) => {
        other.setAttribute("aria-selected", String(other === tab));
        other.tabIndex = other === tab ? 0 : -1;
        one(`#${other.getAttribute("aria-controls")}`).hidden = other !== tab;
      });
      if (focus) tab.focus();
    };
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => choose(tab, false));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose(tabs[(to + tabs.length) % tabs.length], true);
      });
    });
  });
  one("#details")?.addEventListener("change", (event) => {
    one("#groups").classList.toggle("with-details", event.target.checked);
  });
  one("#stratum-choice")?.addEventListener("change", (event) => {
    all("[data-stratum]").forEach((part) => { part.hidden = part.dataset.stratum !== event.target.value; });
  });

  // -- pictures ------------------------------------------------------------------------------------
  all(".slider").forEach((slider) => slider.addEventListener("input", () => {
    slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % original`);
  }));
  one("#masks")?.addEventListener("click", (event) => {
    const on = one(".gallery").classList.toggle("outlined");
    event.currentTarget.setAttribute("aria-pressed", String(on));
  });
  const sort = one("#sort");
  const order = () => {
    const option = sort.selectedOptions[0];
    const sign = option.dataset.direction === "up" ? 1 : -1;
    const cards = all(".gallery figure").map((card) => ({ card, value: JSON.parse(card.dataset.values)[sort.value] }));
    const last = (entry) => (entry.value === undefined ? 1 : 0) + (entry.card.dataset.touched === "1" ? 0 : 2);
    cards.sort((a, b) => last(a) - last(b) || sign * ((a.value ?? 0) - (b.value ?? 0)));
    cards.forEach(({ card, value }) => {
      card.querySelector(".told").textContent = value === undefined ? "" : `${option.textContent} ${value.toFixed(3)}`;
      card.parentElement.append(card);
    });
  };
  if (sort) { sort.addEventListener("change", order); order(); }

  // -- where the reader is -------------------------------------------------------------------------
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    links.forEach((link, id) => id === entry.target.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  }), { rootMargin: "-20% 0px -75% 0px" });
  all("main > section").forEach((section) => watcher.observe(section));

  // -- paper ---------------------------------------------------------------------------------------
  addEventListener("beforeprint", () => {
    printing = true;
    all("details").forEach((part) => { part.open = true; });
    redraw();
  });
  addEventListener("afterprint", () => { printing = false; redraw(); });

  themeButton.setAttribute("aria-pressed", String(isDark()));
  unpack();
})();
