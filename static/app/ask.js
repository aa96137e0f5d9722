// The Ask page: the form with its cost preview, and the conversation over the WebSocket.
"use strict";

(() => {
  const form = document.getElementById("ask");
  if (!form) return;
  const { AskSocket, Answer } = window.fdrouter;
  const data = JSON.parse(document.getElementById("ask-data").textContent);
  const answer = new Answer(document.getElementById("answer"), data);
  const prompt = form.elements.prompt;
  const send = document.getElementById("send");
  const quote = document.getElementById("quote");
  const examples = document.getElementById("examples");
  const DRAFT = "fdrouter.ask";
  const AUTO = "cohort"; // the question decides how records answer it
  const TYPING_PAUSE = 300;
  const QUOTE_AGAIN = 2000; // after a quote that did not come
  const placeholders = data.placeholders;

  let current = null; // {message, id, kind}: the question under way
  let asked = null; // what the quote that is on its way is for
  let quoted = null; // what the quote that is shown is for
  let online = false;
  let signedOut = false;

  // --- the form ---------------------------------------------------------------------------------------------
  const tab = () => form.elements.kind.value;
  const overRecords = () => tab() === "cohort.text";
  const kind = () => (overRecords() ? form.elements.form.value : tab());
  const shown = () => quote.querySelector("[data-answering]");
  // The kind that will answer: as the server chose it for the words of the quote, where it was to choose.
  const answering = () => (kind() !== AUTO ? kind() : shown() ? shown().dataset.answering : "");
  const options = () => form.elements.options.value.split("\n").map((line) => line.trim()).filter(Boolean);
  // All that a quote depends on, as it stands. The question is part of it only where it decides the kind.
  function stated() {
    const given = [...form.querySelectorAll("[data-quoted]")].filter((input) => input.name && (input.checked || !/radio|checkbox/.test(input.type)));
    return JSON.stringify([given.map((input) => [input.name, input.value]), kind() === AUTO ? prompt.value.trim() : ""]);
  }
  const outdated = () => quoted !== stated();
  const box = () => form.elements.across; // there only where enough hospitals are
  const together = () => Boolean(box()) && box().closest("[data-together]").dataset.together.split(" ").includes(answering());
  const across = () => overRecords() && together() && box().checked;
  const exactCost = () => form.elements[`epsilon-${answering()}`]; // of a kind with one control for its cost
  const custom = () => form.querySelector("[data-custom-cost]"); // anew each time: the costs are replaced after an answer

  function epsilon() {
    if (!overRecords()) return null;
    if (exactCost()) return Number(exactCost().value);
    if (answering() !== "cohort.text") return null;
    const chosen = form.querySelector('input[name="epsilon"]:checked');
    return Number((custom() && custom().value) || (chosen ? chosen.value : 0)) || null;
  }

  function hospitals() {
    return overRecords() ? [...form.querySelectorAll('input[name="hospitals"]:checked')].map((box) => box.value) : [];
  }

  function threshold() {
    return answering() === "cohort.choice" && !across() ? Number(form.elements.threshold.value) || null : null;
  }

  function missing() {
    if (!prompt.value.trim()) return true;
    if (kind() === "cohort.choice" && options().length < 2) return true;
    if (overRecords() && exactCost() && !(exactCost().value && exactCost().validity.valid)) return true;
    return kind() === "chart" && !(form.elements.patient && form.elements.patient.value);
  }

  function refresh() {
    const refused = Boolean(quote.querySelector("[data-refused]"));
    send.disabled = signedOut || !online || Boolean(current) || missing() || refused || outdated();
    prompt.placeholder = placeholders[tab()] || "";
    for (const part of form.querySelectorAll("[data-form]")) part.hidden = !part.dataset.form.split(" ").includes(kind());
    for (const part of form.querySelectorAll("[data-cost]")) part.hidden = part.dataset.cost !== answering();
    if (box()) box().closest("[data-together]").hidden = !together();
    form.classList.toggle("is-together", across());
    form.querySelector("[data-one]").hidden = across();
    form.querySelector("[data-threshold]").hidden = across();
    if (kind() === "cohort.choice") form.querySelector("[data-options]").open = true;
  }

  let typing;
  function requote() {
    clearTimeout(typing);
    quote.dispatchEvent(new Event("quote"));
  }

  // The text survives an ended session, a reload and a closed laptop; it never leaves this window's storage.
  function keep() {
    const given = Object.fromEntries(["form", "options", "threshold", "epsilon-cohort.count", "epsilon-cohort.choice", "epsilon-cohort.keywords"].filter((name) => form.elements[name]).map((name) => [name, form.elements[name].value]));
    sessionStorage.setItem(DRAFT, JSON.stringify({ kind: tab(), prompt: prompt.value, given }));
  }

  function restore() {
    const kept = JSON.parse(sessionStorage.getItem(DRAFT) || "null");
    if (!kept || prompt.value || new URLSearchParams(location.search).has("kind")) return;
    prompt.value = kept.prompt;
    const radio = [...form.querySelectorAll('input[name="kind"]')].find((input) => input.value === kept.kind);
    if (radio) radio.checked = true;
    for (const [name, value] of Object.entries(kept.given || {})) if (form.elements[name] && value) form.elements[name].value = value;
  }

  function setCost(value) {
    const presets = [...form.querySelectorAll('input[type="radio"][name="epsilon"]')];
    const preset = presets.find((input) => !input.disabled && Number(input.value) === Number(value));
    const exact = custom();
    for (const input of presets) input.checked = input === preset;
    if (!exact) return;
    exact.value = preset ? "" : value;
    exact.name = preset ? "" : "epsilon";
    exact.toggleAttribute("data-quoted", !preset);
  }

  // --- sending ----------------------------------------------------------------------------------------------
  function ask() {
    if (send.disabled) return;
    const message = {
      type: "ask",
      kind: kind(),
      prompt: prompt.value.trim(),
      purpose: form.elements.purpose.value,
      hospitals: hospitals(),
      patient: kind() === "chart" ? form.elements.patient.value : "",
      epsilon: epsilon(),
      options: kind() === "cohort.choice" || kind() === AUTO ? options() : [],
      threshold: threshold(),
      across: across(),
      idempotency_key: crypto.randomUUID(),
    };
    current = { message, id: null };
    examples.hidden = true;
    answer.start(message.prompt, answering());
    refresh();
    socket.send(message);
  }

  function finished() {
    current = null;
    refresh();
    requote();
    document.getElementById("side").dispatchEvent(new Event("answered"));
  }

  function done(message) {
    answer.finish(message);
    const receipt = answer.part("receipt");
    window.htmx.ajax("GET", `/history/${message.id}/receipt`, { target: receipt, swap: "innerHTML" });
    window.htmx.ajax("GET", `/history/${message.id}/review`, { target: answer.part("review"), swap: "innerHTML" });
    finished();
  }

  const handlers = {
    accepted(message) {
      current.id = message.id;
      answer.accepted(message);
      if (prompt.value.trim() === current.message.prompt) {
        prompt.value = ""; // it is in the history now
        form.elements.options.value = "";
        form.elements.threshold.value = "";
        if (box()) box().checked = false; // that every hospital pays is said anew each time
      }
      sessionStorage.removeItem(DRAFT);
    },
    progress: (message) => answer.moved(message),
    delta: (message) => current.gap || answer.append(message.text),
    done,
    error(message) {
      answer.fail(message);
      finished();
    },
  };

  function banner(name, shown) {
    document.querySelector(`[data-${name}]`).hidden = !shown;
  }

  let downTimer;
  const socket = new AskSocket("/ws/ask", {
    open() {
      clearTimeout(downTimer);
      online = true;
      banner("offline", false);
      refresh();
      if (!current) return;
      if (current.id) {
        current.gap = true;
        answer.resumed();
        socket.send({ type: "resume", id: current.id });
      } else {
        socket.send(current.message); // the same key: it is taken and charged once
      }
    },
    message(message) {
      const ours = current && (!message.id || !current.id || message.id === current.id);
      if (ours && handlers[message.type]) handlers[message.type](message);
    },
    down() {
      online = false;
      refresh();
      if (current) answer.reconnecting();
      clearTimeout(downTimer);
      downTimer = setTimeout(() => banner("offline", !online && !signedOut), 1200); // a blink is not worth a banner
    },
    signedOut() {
      signedOut = true;
      keep();
      banner("expired", true);
      if (current) answer.fail({ code: "unauthenticated", message: "If the question was taken, its answer will be in your history.", charged: null });
      current = null;
      refresh();
    },
  });

  // --- next steps -------------------------------------------------------------------------------------------
  // Brings the last question back, unless another one is being written.
  function bringBack() {
    if (!prompt.value.trim()) prompt.value = answer.part("asked").textContent;
    keep();
    if (outdated()) requote();
    refresh();
    prompt.focus();
  }

  const steps = {
    kind(value) {
      const radio = [...form.querySelectorAll('input[name="kind"]')].find((input) => input.value === value);
      if (radio) radio.click();
      bringBack();
    },
    across(value) {
      if (box()) box().checked = Boolean(value);
      requote();
      bringBack();
    },
    form(value) {
      const [name, cost] = value.split(" ");
      const chip = document.getElementById(`form-${name.replace(".", "-")}`);
      if (box() && name !== kind()) box().checked = false; // it belongs to the first way
      if (chip) chip.click();
      if (cost) steps.epsilon(cost);
      else bringBack();
    },
    hospitals(value) {
      const others = value.split(" ");
      for (const box of form.querySelectorAll('input[name="hospitals"]')) box.checked = others.includes(box.value);
      requote();
      bringBack();
    },
    epsilon(value) {
      const exact = form.elements[`epsilon-${answering()}`];
      if (exact) exact.value = value;
      else setCost(value);
      requote();
      bringBack();
    },
    purpose: () => form.elements.purpose.focus(),
    edit: bringBack,
    retry() {
      bringBack();
      ask();
    },
  };

  document.addEventListener("click", (event) => {
    const step = event.target.closest("[data-step]");
    if (!step || !steps[step.dataset.step]) return;
    event.preventDefault();
    steps[step.dataset.step](step.dataset.value);
  });

  // --- events -----------------------------------------------------------------------------------------------
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  form.addEventListener("input", (event) => {
    keep();
    if (event.target === custom() && event.target.value) setCost(event.target.value);
    if (outdated()) {
      clearTimeout(typing);
      typing = setTimeout(requote, TYPING_PAUSE);
    }
    refresh();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "epsilon" && event.target !== custom()) setCost(event.target.value);
    if (event.target !== prompt) requote();
    refresh();
  });
  quote.addEventListener("htmx:beforeRequest", () => (asked = stated()));
  quote.addEventListener("htmx:afterSwap", () => (quoted = asked));
  for (const failure of ["htmx:sendError", "htmx:responseError"]) {
    quote.addEventListener(failure, () => {
      clearTimeout(typing);
      typing = setTimeout(() => outdated() && !signedOut && requote(), QUOTE_AGAIN);
    });
  }
  document.body.addEventListener("htmx:afterSwap", refresh);
  document.body.addEventListener("htmx:oobAfterSwap", requote); // what fits has changed, and perhaps the choice
  document.body.addEventListener("htmx:responseError", (event) => {
    if (![401, 403].includes(event.detail.xhr.status)) return; // 403: signed in anew elsewhere, this page is too old
    signedOut = true;
    banner("expired", true);
    refresh();
  });
  examples.addEventListener("click", (event) => {
    const example = event.target.closest("[data-example]");
    if (!example) return;
    prompt.value = example.textContent;
    keep();
    requote();
    refresh();
    prompt.focus();
  });
  answer.part("stop").addEventListener("click", () => {
    if (!current || !current.id) return;
    answer.stopping();
    socket.send({ type: "cancel", id: current.id });
  });
  answer.part("copy").addEventListener("click", async (event) => {
    const label = event.currentTarget.querySelector("span");
    await navigator.clipboard.writeText(answer.text);
    label.textContent = "Copied";
    setTimeout(() => (label.textContent = "Copy"), 1600);
  });

  restore();
  refresh();
})();
