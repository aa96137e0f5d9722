// The answer's card: what is shown while words arrive, when they are complete, and when something went wrong.
"use strict";

window.fdrouter = window.fdrouter || {};

(() => {
  const number = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
  const COUNTED = ["cohort.count", "cohort.choice"]; // no model has a part in these
  const STOP_COSTS = {
    chart: "Stopping costs nothing. The look at the record stays recorded.",
    general: "Stopping costs nothing.",
    "cohort.released": "Stopping costs nothing.",
  };

  class Answer {
    // `data` is what the page knows: troubles by code, forms (how records can be asked, in words that stand inside a
    // sentence) and the hospitals' names by id.
    constructor(root, data) {
      this.root = root;
      this.troubles = data.troubles;
      this.forms = data.forms;
      this.hospitals = data.hospitals;
      this.part = (name) => root.querySelector(`[data-${name}]`);
    }

    start(question, kind) {
      this.kind = kind;
      this.text = "";
      this.id = null;
      this.root.hidden = false;
      this.part("asked").textContent = question;
      this.part("text").textContent = "";
      this.part("text").classList.remove("is-partial");
      this.part("stop-cost").textContent = STOP_COSTS[kind] || "Stopping does not give the privacy cost back.";
      this.part("stop").disabled = false;
      this.part("facts").replaceChildren();
      this.part("receipt").replaceChildren();
      this.part("review").replaceChildren();
      for (const name of ["trouble", "foot", "node"]) this.part(name).hidden = true;
      this.busy(true);
      this.say("Sent", "live");
      this.progress("Waiting for a place");
      this.root.scrollIntoView({ block: "nearest" });
    }

    // Screen readers hear the whole answer once it is there, not every word: the live region is busy until then.
    busy(is) {
      this.part("text").setAttribute("aria-busy", String(is));
      this.part("stop").closest(".answer-stop").hidden = !is;
      this.part("progress").hidden = !is;
    }

    say(words, tone) {
      const state = this.part("state");
      state.textContent = words;
      state.className = `state state-${tone}`;
    }

    progress(words) {
      this.part("progress-text").textContent = words;
    }

    accepted(message) {
      this.id = message.id;
      this.kind = message.kind;
      this.say("Accepted", "live");
      this.progress(message.expected_seconds ? `About ${message.expected_seconds} s` : "");
    }

    node(node) {
      if (!node) return;
      this.part("node-name").textContent = node.name;
      this.part("node").hidden = false;
    }

    // Who answered: one node, or several hospitals together.
    who(message) {
      const together = (message.privacy.hospitals || []).map((code) => this.hospitals[code] || code);
      return message.node || (together.length ? { name: together.join(", ") } : null);
    }

    moved(message) {
      this.node(message.node);
      this.say("Working", "live");
      if (message.text) this.progress(message.text);
    }

    append(words) {
      if (!this.text) this.say("Answering", "live");
      this.text += words;
      this.part("text").append(words);
    }

    // After a dropped connection some words are missing until the whole answer comes.
    reconnecting() {
      this.say("Connection lost", "warn");
      this.progress("The answer goes on at the hospital. Trying to reconnect…");
      this.part("text").classList.add("is-partial");
    }

    resumed() {
      this.say("Reconnected", "live");
      this.progress("The whole answer appears as soon as it is complete.");
    }

    stopping() {
      this.part("stop").disabled = true;
      this.say("Stopping", "warn");
    }

    finish(message) {
      const text = this.part("text");
      this.text = message.answer;
      if (text.textContent !== message.answer) text.textContent = message.answer;
      text.classList.remove("is-partial");
      this.busy(false);
      this.node(this.who(message));
      const withheld = message.finish_reason === "withheld";
      this.say(withheld ? "Withheld" : "Answered", withheld ? "warn" : "good");
      const cut = message.finish_reason === "length" ? " The text was cut at its length limit." : "";
      const why = message.privacy.chosen ? ` ${message.privacy.chosen.why}` : "";
      this.part("basis").textContent = this.basis(message) + cut + why;
      this.facts(message.privacy);
      this.part("open").href = `/history/${message.id}`;
      this.part("written").hidden = COUNTED.includes(this.kind) || this.released(message.privacy).written_by_model === false;
      this.part("foot").hidden = false;
    }

    basis(message) {
      const who = this.who(message);
      const at = who ? ` at ${who.name}` : "";
      if (message.finish_reason === "withheld") return `Too few records agree${at}, so no numbers are told. The records pay for the check alone; your budget pays in full.`;
      if (this.kind === "chart") return `Based on the chosen patient's record${at}. Not anonymous: treat it like the chart.`;
      if (!this.kind.startsWith("cohort.")) return `Based on the model's public training${at}. No patient's record was opened.`;
      if (this.kind === "cohort.released") return `Made from ${this.published(message.privacy)}${at}. No record was read for it, and it costs nothing more.`;
      return `Based on what many patients' records have in common${at}, with noise that limits what any one patient can change.`;
    }

    released(privacy) {
      return ((privacy.receipt || {}).body || {}).released || {};
    }

    // What a free answer is made from, as its receipt says.
    published(privacy) {
      const { notes = 0, cards = [] } = this.released(privacy);
      const parts = [];
      if (notes) parts.push(`${notes} synthetic note${notes === 1 ? "" : "s"}`);
      if (cards.length) parts.push(`published figures (${cards.join(", ")})`);
      return parts.join(" and ") || "what is published";
    }

    facts(privacy) {
      const left = privacy.remaining || {};
      const cost = privacy.epsilon ? number.format(privacy.epsilon) : privacy.repeat_of ? `none: released ${new Date(privacy.released_at).toLocaleString()}, told again` : "none";
      this.fact("Privacy cost", cost);
      if (left.user !== null && left.user !== undefined) this.fact("You, today", number.format(left.user), "left");
      if (left.department !== null && left.department !== undefined) this.fact("Department, today", number.format(left.department), "left");
    }

    fact(name, value, unit) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const words = document.createElement("dd");
      term.textContent = name;
      words.textContent = value;
      if (unit) {
        const small = document.createElement("small");
        small.textContent = ` ${unit}`;
        words.append(small);
      }
      pair.append(term, words);
      this.part("facts").append(pair);
    }

    fail(error) {
      this.busy(false);
      const known = this.troubles[error.code] || this.troubles.unknown;
      const stopped = error.code === "cancelled";
      this.say(stopped ? "Stopped" : error.charged ? "Failed after it was charged" : "Not answered", stopped ? "warn" : "bad");
      this.part("text").classList.toggle("is-partial", Boolean(this.text));
      this.part("trouble-title").textContent = `${known.title}.`;
      this.part("trouble-why").textContent = error.message || "";
      this.part("trouble-charge").textContent = this.charge(error);
      const note = this.part("trouble").firstElementChild;
      note.className = `note note-${stopped ? "warning" : "error"}`;
      this.part("trouble-steps").replaceChildren(...this.steps(error, known));
      this.part("trouble").hidden = false;
    }

    charge(error) {
      if (!this.kind.startsWith("cohort.")) return "";
      if (error.charged === null) return "Whether it was charged stands in your history.";
      return error.charged
        ? "The privacy cost stays charged: records had been read. The details are in your history."
        : "No privacy cost was charged.";
    }

    // An offer of a refusal as a button, as federation/troubles.py makes it for pages; null where there is no control.
    step(offer) {
      if (offer.request_budget) return { label: "Ask for more budget", action: "link", href: "/budget" };
      if ("across" in offer) return { label: offer.across ? "Ask hospitals together" : "Ask one hospital", action: "across", href: "/", value: offer.across ? "together" : "" };
      if (offer.hospitals) return { label: "Ask another hospital", action: "hospitals", href: "/", value: offer.hospitals.join(" ") };
      if (offer.kind === "general") return { label: "Ask the model without records", action: "kind", href: "/?kind=general", value: "general" };
      const cost = offer.epsilon ? ` ${offer.epsilon}` : "";
      if (offer.kind in this.forms) return { label: `Answer with ${this.forms[offer.kind]}${cost && ` for${cost}`}`, action: "form", href: "/", value: offer.kind + cost };
      return offer.epsilon && !offer.kind ? { label: `Use privacy cost${cost}`, action: "epsilon", href: "/", value: cost.trim() } : null;
    }

    steps(error, known) {
      const details = error.details || {};
      const better = (details.try || []).map((offer) => this.step(offer)).filter(Boolean);
      const offered = better.map((step) => step.href).filter((href) => href !== "/");
      const requests = error.code === "quota_spent" && details.unit === "requests";
      const useless = (step) => step.action === "kind" && (requests || this.kind === "general");
      const usual = known.steps.filter((step) => !useless(step) && !offered.includes(step.href));
      return [...better, ...usual].map((step, index) => {
        const link = document.createElement("a");
        link.className = `btn btn-sm ${index ? "btn-plain" : "btn-primary"}`;
        link.href = step.href;
        link.textContent = step.label;
        link.dataset.step = step.action;
        link.dataset.value = step.value || "";
        return link;
      });
    }
  }

  window.fdrouter.Answer = Answer;
})();
