// Requests to the server. All addresses are relative, so they keep the secret in the path of the page.

export class Refused extends Error {}

const TOO_MANY = "The server has as many connections as it takes. Close this page in other windows and on other machines.";

async function request(path, options) {
  const response = await fetch(path, options);
  if (response.status === 503) throw new Refused(TOO_MANY);
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Refused(`The server answered ${response.status}.`);
  }
  if (response.status === 409) location.reload();
  if (!response.ok) throw new Refused(body.problem);
  return body;
}

function post(path, body = {}) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

let session = null; // changes with each start of the job, which may number the pictures differently

/** Note the session for which the numbers of pictures hold. */
export function setSession(identity) {
  session = identity;
}

// `keep` are the numbers of pictures that the answer describes, whether they are suggested or not.
export const getState = (keep) => post("api/state", { keep });
// `existing` is whether the class must exist, which another page may have renamed meanwhile.
export const label = (pictures, name, { existing }, keep) => post("api/label", { session, pictures, class: name, existing, keep });
export const renameClass = (name, to, keep) => post("api/rename_class", { session, class: name, to, keep });
export const removeClass = (name, keep) => post("api/remove_class", { session, class: name, keep });
export const undo = (keep) => post("api/undo", { session, keep });
export const startExport = (placement, keep) => post("api/export", { session, placement, keep });

/** Return a part of the pictures of a view: {show, order, similar_to, text}. */
export function listPictures(view, start, count) {
  const query = new URLSearchParams({ ...view, start, count });
  return request(`api/pictures?${query}`);
}

/** Call `onChange(session, version, exports)` whenever something changes, and `onLost(lost)` when the connection does. */
export function watch(onChange, onLost) {
  const events = new EventSource("api/events");
  events.onmessage = (event) => {
    onLost(false);
    onChange(...JSON.parse(event.data));
  };
  events.onerror = () => {
    onLost(true);
    if (events.readyState === EventSource.CLOSED) setTimeout(() => watch(onChange, onLost), 1000);
  };
}
