import { all, post, remove, useQuery } from "../api.js";
import { html, useState } from "../lib.js";
import { link } from "../router.js";
import { parse, plain } from "../text.js";
import { Action, Dialog, Empty, Field, Loaded, Name, notify, Page, State, Table, Time, Trouble } from "../ui.js";

export function Schedules() {
  const schedules = useQuery("v1/schedules", { every: 3000, load: all });
  const [adding, setAdding] = useState(false);
  const { reload } = schedules;
  return html`<${Page} title="Schedules" about="Events that the gateway publishes by the clock." actions=${html`<button type="button" class="primary" onClick=${() => setAdding(true)} data-action="add">New schedule</button>`}>
    <${Loaded} of=${schedules}>${({ items }) => html`<${Table} label="Schedules" rows=${items} id=${(one) => one.name}
      columns=${[
        { name: "Schedule", cell: (one) => html`<span title=${plain(one.description)}><${Name} text=${one.name} /></span>` },
        { name: "State", cell: (one) => html`<${State} state=${one.paused ? "paused" : "active"} />` },
        { name: "When", kind: "wrap", cell: (one) => html`<code>${one.cron ?? `every ${one.every}`}</code> ${one.cron && html`<span class="dim">${one.timezone}</span>`}` },
        { name: "Event", kind: "grow", cell: (one) => html`<a href=${link("/events", { type: one.event.type })}><${Name} text=${one.event.type} /></a>` },
        { name: "Next", cell: (one) => html`<${Time} at=${one.next[0]} />` },
        { name: "Last", kind: "extra", cell: (one) => html`<${Time} at=${one.last_fired_at} none="never" />` },
        { name: "", cell: (one) => html`<${Buttons} one=${one} reload=${reload} />` },
      ]}
      empty=${html`<${Empty} title="No schedule yet."><p>A schedule publishes an event, such as <code>report.wanted</code> each night, which handlers then run.</p><//>`} />`}<//>
    ${adding && html`<${New} onClose=${() => setAdding(false)} onSaved=${reload} />`}
  <//>`;
}

function Buttons({ one, reload }) {
  const path = `v1/schedules/${one.name}`;
  return html`<div class="buttons">
    <${Action} kind="small" label=${`Run ${one.name} now`} run=${() => post(`v1/schedules/${one.name}/run`).then(reload)} done=${`${one.name} has fired`}>Run now<//>
    ${one.paused
      ? html`<${Action} kind="small" label=${`Resume ${one.name}`} run=${() => post(`v1/schedules/${one.name}/resume`).then(reload)} done=${`${one.name} is resumed`}>Resume<//>`
      : html`<${Action} kind="small" label=${`Pause ${one.name}`} run=${() => post(`v1/schedules/${one.name}/pause`).then(reload)} done=${`${one.name} is paused`}>Pause<//>`}
    <${Action} kind="small danger" label=${`Delete ${one.name}`} run=${() => remove(path).then(reload)} done=${`${one.name} is deleted`}
      confirm=${{ title: `Delete ${one.name}?`, text: "It fires no more.", yes: "Delete the schedule" }}>Delete<//>
  </div>`;
}

function New({ onClose, onSaved }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const form = new FormData(event.currentTarget);
    const text = (name) => form.get(name).trim() || null;
    try {
      const data = text("data");
      const made = { name: text("name"), cron: text("cron"), every: text("every"), event: { type: text("type") } };
      if (text("timezone")) made.timezone = text("timezone");
      if (data) made.event.data = parse(data);
      await post("v1/schedules", made);
      notify(`${made.name} is scheduled`);
      onSaved();
      onClose();
    } catch (problem) {
      setError(problem instanceof SyntaxError ? new Error(`The data must be JSON: ${problem.message}`) : problem);
    }
  };
  return html`<${Dialog} title="New schedule" onClose=${onClose} wide>
    <form class="grid" onSubmit=${submit}>
      <${Field} label="Name"><input name="name" required placeholder="nightly-report" spellcheck="false" /><//>
      <${Field} label="Type of the event"><input name="type" required placeholder="report.wanted" spellcheck="false" /><//>
      <${Field} label="Cron" hint="minute hour day month weekday"><input name="cron" placeholder="0 3 * * *" spellcheck="false" /><//>
      <${Field} label="or every" hint="30s, 5m, 1h, 1d"><input name="every" placeholder="30s" spellcheck="false" /><//>
      <${Field} label="Time zone" hint="for cron; UTC if empty"><input name="timezone" placeholder="Europe/Berlin" spellcheck="false" /><//>
      <${Field} wide label="Data (JSON)"><textarea name="data" rows="3" spellcheck="false"></textarea><//>
      <div class="wide"><${Trouble} error=${error} /></div>
      <div class="buttons"><button class="primary" data-action="save">Create</button><button type="button" onClick=${onClose}>Discard</button></div>
    </form>
  <//>`;
}
