const query = new URLSearchParams(location.search);
const said = document.getElementById("said");
if (query.has("failed")) said.textContent = "That is not the name and password of anybody here.";
if (query.has("wait")) said.textContent = `Too many tries. Try again in ${Number(query.get("wait")) || 60} seconds.`;
